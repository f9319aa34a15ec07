# Builds the CPU addon where cmake is missing; the same sources and flags as CMakeLists.txt.
{
  'variables': {
    'kernel_sources': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').kernels")'],
    'addon_sources': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').addon")'],
  },
  'target_defaults': {
    'cflags_cc': ['-std=c++20', '-O3', '-fPIC', '-fexceptions', '-fvisibility=hidden', '-Wno-psabi', '-Wno-unknown-pragmas'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20', '-std=c++17'],
    'cflags!': ['-O2', '-fno-exceptions'],
    'xcode_settings': {
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++20', 'GCC_ENABLE_CPP_EXCEPTIONS': 'YES', 'GCC_OPTIMIZATION_LEVEL': '3', 'MACOSX_DEPLOYMENT_TARGET': '13.0',
    },
  },
  'targets': [
    { 'target_name': 'kernels_baseline', 'type': 'static_library', 'sources': ['<@(kernel_sources)'], 'defines': ['ANNEAL_ISA=baseline'] },
    {
      'target_name': 'anneal',
      'sources': ['<@(addon_sources)'],
      'include_dirs': ['<!@(node -p "require(\'node-addon-api\').include")'],
      'defines': ['NAPI_VERSION=8', 'NAPI_CPP_EXCEPTIONS', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', 'ANNEAL_HAS_BASELINE', 'ANNEAL_INTERFACE="<!(node -p "require(\'./scripts/native-sources.cjs\').interface")"'],
      'dependencies': ['kernels_baseline'],
      'conditions': [
        ['OS=="linux"', { 'ldflags': ['-Wl,-z,nodelete', '-Wl,-z,now', '-static-libstdc++', '-static-libgcc', '-Wl,--gc-sections'] }],
        ['target_arch=="x64"', {
          'defines': ['ANNEAL_HAS_AVX2', 'ANNEAL_HAS_AVX512', 'ANNEAL_HAS_AVX512BF16'],
          'dependencies': ['kernels_avx2', 'kernels_avx512', 'kernels_avx512bf16'],
        }],
      ],
    },
  ],
  'conditions': [
    ['target_arch=="x64"', {
      'targets': [
        {
          'target_name': 'kernels_avx2', 'type': 'static_library', 'sources': ['<@(kernel_sources)'], 'defines': ['ANNEAL_ISA=avx2'],
          'cflags_cc': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx2\')")'],
          'xcode_settings': { 'OTHER_CFLAGS': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx2\')")'] },
        },
        {
          'target_name': 'kernels_avx512', 'type': 'static_library', 'sources': ['<@(kernel_sources)'], 'defines': ['ANNEAL_ISA=avx512'],
          'cflags_cc': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx512\')")'],
          'xcode_settings': { 'OTHER_CFLAGS': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx512\')")'] },
        },
        {
          'target_name': 'kernels_avx512bf16', 'type': 'static_library', 'sources': ['<@(kernel_sources)'], 'defines': ['ANNEAL_ISA=avx512bf16'],
          'cflags_cc': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx512bf16\')")'],
          'xcode_settings': { 'OTHER_CFLAGS': ['<!@(node -p "require(\'./scripts/native-sources.cjs\').flags(\'avx512bf16\')")'] },
        },
      ],
    }],
  ],
}
